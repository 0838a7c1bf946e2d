"""Lives of the supervisor in virtual time, against a simulated cluster: everything is drawn from a seed. Pure."""
