"""Recordings, and what is made of them: bags, videos, folders, tracks, prompts. No commands."""
