"""cai_ray: Constitutional AI as a distributed batch system on Ray."""

__version__ = "0.1.0"
