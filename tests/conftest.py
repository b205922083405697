"""Real servers, started once per session and shared; tests isolate themselves by database, bucket or prefix."""

pytest_plugins = ["tests.servers.s3", "tests.servers.postgres", "tests.servers.registry", "tests.servers.app"]
