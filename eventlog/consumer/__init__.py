"""Consumers and consumer groups."""
