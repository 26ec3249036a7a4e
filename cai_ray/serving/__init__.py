"""A trained model as an OpenAI-compatible server on Ray Serve, and a chat in the terminal."""
