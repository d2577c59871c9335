"""Models, attacks and images to records: who crafts, who is shown, who is right."""
