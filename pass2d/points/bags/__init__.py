"""Recordings of ROS 1 and ROS 2: their clouds as columns, and copies whose clouds have more fields.

`bag.py` opens one; one file per storage format reads and copies it.
"""
