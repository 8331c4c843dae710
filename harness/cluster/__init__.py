"""An experiment as a cluster's job: submission, packages, manifests."""
