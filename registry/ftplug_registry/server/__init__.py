"""An embedded server of the Hub protocol, for tests, the demo and machines without a Hub."""
