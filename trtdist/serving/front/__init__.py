"""The HTTP front end: OpenAI's API for a run. It runs on the host, in the environment of the launcher."""
