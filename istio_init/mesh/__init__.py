"""What rules mean to a mesh: roles, the policy, and the routing that goes with it. Pure."""
