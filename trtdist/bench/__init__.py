"""Load generation, measurement and reports: what a deployment does under load, and how two results differ."""
