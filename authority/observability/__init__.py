"""Metrics, the event log and the recorder of proof times, all fed by events. Imports ``rotation`` and lower."""
