"""Recordings in; tracks, pictures and figures out. Nothing here imports ROS."""
