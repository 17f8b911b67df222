"""The parts of a run, in their order: what tells most comes first."""

from __future__ import annotations

from bench.gpu.checks import doctor, golden_tests, gpu_tests
from bench.gpu.fixed import fixed
from bench.gpu.image import image_network
from bench.gpu.learning import learning
from bench.gpu.machine import machine
from bench.gpu.run import Part
from bench.gpu.setup import make_worlds
from bench.gpu.shares import profile
from bench.gpu.steps import steps
from bench.gpu.throughput import throughput
from bench.gpu.waits import waits

PARTS = {
    "machine": Part(machine, 25, needs_device=False),
    "worlds": Part(make_worlds, 65),
    "doctor": Part(doctor, 40, needs_device=False),
    "steps": Part(steps, 70),
    "throughput": Part(throughput, 60),
    "waits": Part(waits, 45),
    "profile": Part(profile, 35),
    "fixed": Part(fixed, 35),
    "image": Part(image_network, 35),
    "tests": Part(gpu_tests, 35),
    "golden": Part(golden_tests, 35),
    "learning": Part(learning, 30),
}
