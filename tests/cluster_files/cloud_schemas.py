"""The keys of node configs and providers that clusters/ uses, closed: Ray hands them to the cloud unchecked.

From EC2's RunInstances and Compute Engine's instances.insert; a key that a file comes to use is added here.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 1}
YES_OR_NO = {"type": "boolean"}


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def several(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


AWS_NODE = closed(
    ("InstanceType", "ImageId", "BlockDeviceMappings"),
    InstanceType={"type": "string", "pattern": r"^[a-z0-9-]+\.(metal|\d*x?large)[a-z0-9-]*$"},
    ImageId={"type": "string", "pattern": "^(ami-[0-9a-f]+|resolve:ssm:/.+)$"},
    BlockDeviceMappings=several(
        closed(
            ("DeviceName", "Ebs"),
            DeviceName=TEXT,
            Ebs=closed(VolumeSize=COUNT, VolumeType=one_of("gp3", "gp2", "io2"), DeleteOnTermination=YES_OR_NO),
        )
    ),
    MetadataOptions=closed(HttpTokens=one_of("required", "optional"), HttpPutResponseHopLimit=COUNT),
    IamInstanceProfile=closed(Name=TEXT, Arn=TEXT),
    InstanceMarketOptions=closed(
        ("MarketType",),
        MarketType=one_of("spot", "capacity-block"),
        SpotOptions=closed(
            SpotInstanceType=one_of("one-time", "persistent"),
            InstanceInterruptionBehavior=one_of("terminate", "stop", "hibernate"),
        ),
    ),
)
AWS_PROVIDER = closed(
    ("region",),
    type=one_of("aws"),
    region=TEXT,
    availability_zone=TEXT,
    cache_stopped_nodes=YES_OR_NO,
    security_group=closed(GroupName=TEXT),
)
GCP_NODE = closed(
    ("machineType", "disks"),
    machineType={"type": "string", "pattern": r"^[a-z]\d[a-z]?-[a-z]+-\d+g?$"},
    disks=several(
        closed(
            boot=YES_OR_NO,
            autoDelete=YES_OR_NO,
            type=one_of("PERSISTENT", "SCRATCH"),
            initializeParams=closed(
                diskSizeGb=COUNT, sourceImage={"type": "string", "pattern": "^projects/.+/images/"}
            ),
        )
    ),
    serviceAccounts=several(closed(("email", "scopes"), email=TEXT, scopes=several(TEXT))),
    metadata=closed(items=several(closed(key=TEXT, value=TEXT))),
    scheduling=several(closed(preemptible=YES_OR_NO, onHostMaintenance=one_of("TERMINATE", "MIGRATE"))),
)
GCP_PROVIDER = closed(
    ("region", "availability_zone", "project_id"),
    type=one_of("gcp"),
    region=TEXT,
    availability_zone=TEXT,
    project_id=TEXT,
)
OF = {"aws": (AWS_NODE, AWS_PROVIDER), "gcp": (GCP_NODE, GCP_PROVIDER)}
