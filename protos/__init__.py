"""The wire: one folder a service and version, the generated code beside its source."""
