pytest_plugins = ["cluster_fixtures"]
