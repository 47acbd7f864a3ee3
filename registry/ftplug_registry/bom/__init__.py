"""The bill of materials of an artifact, as CycloneDX 1.6 (https://cyclonedx.org)."""
