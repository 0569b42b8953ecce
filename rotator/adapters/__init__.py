"""The world outside, behind the ports; one room per system."""
