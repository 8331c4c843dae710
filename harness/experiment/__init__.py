"""What is asked: a YAML file becomes an `Experiment`, an `Experiment` becomes a list of `Run`s. No torch, no Ray."""
