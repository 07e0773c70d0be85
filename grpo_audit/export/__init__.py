"""What leaves the project: bundle, cards, bill of materials, attestations, lineage."""
