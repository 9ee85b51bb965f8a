"""The ROS side: the tracker node and its messages, parameters, QoS and diagnostics."""
