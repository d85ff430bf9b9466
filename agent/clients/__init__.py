"""HTTP and NATS calls that several wings need. Imports no other wing of the agent."""
