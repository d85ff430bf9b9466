"""The cycle and ``--once``: the only code that puts the agent's steps in order. May import every wing of the agent."""
