"""Resources of an agentgateway controller as the configuration file would say them."""
