"""The port of workloads: reloaders that load a set, provers that find out which set is used. May import ``clients``."""
