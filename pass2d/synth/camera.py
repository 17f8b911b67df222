"""From what the camera's rays meet to a picture: colours, textures, light, haze."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pass2d.synth.culling import picture_windows
from pass2d.synth.noise import hash_cells, smooth_noise
from pass2d.synth.parts import Color, Solids
from pass2d.synth.sensors import CameraModel, RayGrid, camera_grid
from pass2d.synth.shadow import ShadowMap, cast_shadow
from pass2d.synth.shapes import Floats, Vectors
from pass2d.synth.street import Street
from pass2d.synth.surfaces import CONTRAST, TEXTURE, Surface, Texture
from pass2d.synth.trace import Hits, trace

SHADOW_CELL_M = 0.2
"""At the full size; coarser for small pictures."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """Sun, sky and the colours of the ground in one sequence."""

    sun: tuple[float, float, float]
    """Unit vector towards the sun, world frame."""
    ambient: float
    """Share of the light that comes from everywhere, 0..1."""
    exposure: float
    horizon: Color
    zenith: Color
    ground: NDArray[np.float32]
    """(number of `Surface`, 3) colours of the ground's surfaces."""


def render_picture(
    model: CameraModel,
    world_from_lidar: NDArray[np.float64],
    solids: Solids,
    street: Street,
    *,
    light: Light,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Make the picture that a camera takes.

    Args:
        model: the camera.
        world_from_lidar: (4, 4) pose of the LiDAR at that time.
        solids: the things around.
        street: the ground.
        light: sun and colours.
        rng: noise of the sensor.

    Returns:
        (H, W, 3) red, green, blue.
    """
    grid = camera_grid(model, world_from_lidar)
    windows = picture_windows(grid, solids, model=model, world_from_lidar=world_from_lidar)
    hits = trace(grid, solids, windows, street)
    height, width = grid.shape
    picture = _sky(grid.direction, light).reshape(-1, 3)
    base = np.where(
        (hits.solid >= 0)[:, None], solids.color[hits.solid], light.ground[hits.surface]
    )
    cell_m = SHADOW_CELL_M * max(1.0, 1000 / width)
    shadow = cast_shadow(solids, world_from_lidar, sun=light.sun, cell_m=cell_m)
    shade = _shade(grid, hits, shadow)
    lit = _textured(hits, base) * _brightness(hits, light, shade)[:, None]
    haze = (1 - np.exp(-hits.distance / np.float32(260)))[:, None]
    picture[hits.ray] = lit * (1 - haze) + np.array(light.horizon, np.float32) * haze
    noisy = picture * np.float32(light.exposure)
    noisy += np.float32(0.008) * rng.standard_normal((height * width, 1), np.float32)
    # A display's curve, as cameras apply it; 0..255.
    shown = np.sqrt(np.clip(noisy, 0, 1)) * 255
    return shown.astype(np.uint8).reshape(height, width, 3)


def _sky(direction: Vectors, light: Light) -> Floats:
    up = np.clip(direction.z * 2.5, 0, 1)[..., None]
    horizon, zenith = np.array(light.horizon, np.float32), np.array(light.zenith, np.float32)
    return (horizon * (1 - up) + zenith * up).astype(np.float32)


def _shade(grid: RayGrid, hits: Hits, shadow: ShadowMap) -> Floats:
    """Shadow at every hit; only the ground takes any."""
    shade = np.zeros(len(hits.ray), np.float32)
    ground = np.flatnonzero(hits.solid < 0)
    ray, distance = hits.ray[ground], hits.distance[ground]
    x = np.float32(grid.origin[0]) + distance * grid.direction.x.reshape(-1)[ray]
    y = np.float32(grid.origin[1]) + distance * grid.direction.y.reshape(-1)[ray]
    shade[ground] = shadow.at(x, y)
    return shade


def _brightness(hits: Hits, light: Light, shade: Floats) -> Floats:
    x, y, z = (np.float32(v) for v in light.sun)
    sunlit = np.maximum(hits.normal.x * x + hits.normal.y * y + hits.normal.z * z, 0)
    sunlit *= 1 - shade
    # Surfaces that look up see more of the sky.
    ambient = np.float32(light.ambient) * (np.float32(0.75) + np.float32(0.25) * hits.normal.z)
    return (ambient + np.float32(1 - light.ambient) * sunlit).astype(np.float32)


def _textured(hits: Hits, base: Floats) -> Floats:
    """Vary the colours over their surfaces."""
    color = base.astype(np.float32, copy=True)
    kinds = TEXTURE[hits.surface]
    for texture in Texture:
        rows = np.flatnonzero(kinds == texture)
        if texture is Texture.PLAIN or not len(rows):
            continue
        place = Vectors(*(v[rows] for v in hits.place))
        strength = CONTRAST[hits.surface[rows]]
        normal_z = hits.normal.z[rows]
        if texture is Texture.FACADE:
            is_window = _is_window(place, normal_z, hits.solid[rows])
            color[rows] = np.where(is_window[:, None], _WINDOW, color[rows])
        elif texture is Texture.EMBLEM:
            bright = color[rows].min(axis=1) > 0.6
            ink = np.where(bright[:, None], _RED, _WHITE)
            color[rows] = np.where(_is_emblem(place)[:, None], ink, color[rows])
        factor = 1 + strength * _pattern(texture, place)
        color[rows] *= np.maximum(factor, np.float32(0.1))[:, None]
    return color


_WINDOW = np.array([0.10, 0.13, 0.17], np.float32)
_WHITE = np.array([0.92, 0.92, 0.92], np.float32)
_RED = np.array([0.75, 0.08, 0.08], np.float32)


def _pattern(texture: Texture, place: Vectors) -> Floats:
    """Relative brightness about 0 at places of a surface."""
    x, y = place.x + np.float32(0.6) * place.z, place.y + np.float32(0.8) * place.z
    if texture is Texture.SLABS:
        joint = (np.mod(x, 0.6) < 0.05) | (np.mod(y, 0.6) < 0.05)
        tile = hash_cells(np.floor(x / np.float32(0.6)), np.floor(y / np.float32(0.6)))
        return np.where(joint, np.float32(-1.6), 2 * tile - 1)
    if texture is Texture.LEAVES:
        cells = [np.floor(v * np.float32(11)) for v in place]
        return 2 * hash_cells(*cells) - 1
    if texture is Texture.GRAIN:
        return smooth_noise(np.float32(5) * (x + y), place.z, cell_m=0.12)
    cell_m = 0.25 if texture is Texture.BLOTCHES else 0.05
    fine = smooth_noise(x, y, cell_m=cell_m / 3)
    coarse = smooth_noise(y, x, cell_m=8 * cell_m)
    return np.float32(0.6) * fine + np.float32(0.6) * coarse


def _is_window(place: Vectors, normal_z: Floats, solid: NDArray[np.int32]) -> NDArray[np.bool_]:
    along = np.mod(place.x + place.y + solid.astype(np.float32), 2.6)
    up = np.mod(place.z + np.float32(0.4), 3.0)
    upright = np.abs(normal_z) < 0.5
    return upright & (along > 0.7) & (along < 1.9) & (up > 0.9) & (up < 2.2)


def _is_emblem(place: Vectors) -> NDArray[np.bool_]:
    """A bar across the middle and a rim."""
    reach = np.maximum(np.hypot(place.x, place.z), np.hypot(place.y, place.z))
    return ((reach < 0.22) & (np.abs(place.z) < 0.08)) | (reach > 0.32)


def ground_colors(rng: np.random.Generator) -> NDArray[np.float32]:
    """(number of `Surface`, 3) colours of the ground in one sequence: similar, never the same."""
    means = {
        Surface.ASPHALT: (0.20, 0.20, 0.21),
        Surface.MARKING: (0.80, 0.80, 0.77),
        Surface.PARKING: (0.34, 0.25, 0.21),
        Surface.SIDEWALK: (0.46, 0.44, 0.41),
        Surface.GRAVEL: (0.44, 0.37, 0.27),
        Surface.GRASS: (0.21, 0.31, 0.09),
    }
    colors = np.zeros((len(Surface), 3), np.float32)
    for surface, mean in means.items():
        tint = 1 + 0.07 * rng.standard_normal() + 0.03 * rng.standard_normal(3)
        colors[surface] = np.clip(np.array(mean) * tint, 0.03, 0.95)
    return colors


def draw_light(rng: np.random.Generator) -> Light:
    """Draw the weather of one sequence."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.1)
    flat = np.cos(elevation)
    cloudy = float(rng.uniform(0, 1))
    grey = 0.62 + 0.2 * rng.uniform()
    return Light(
        sun=(
            float(flat * np.cos(azimuth)),
            float(flat * np.sin(azimuth)),
            float(np.sin(elevation)),
        ),
        ambient=0.28 + 0.27 * cloudy,
        exposure=float(rng.uniform(0.95, 1.25)),
        horizon=(grey, grey * 1.02, grey * 1.06),
        zenith=(0.25 + 0.3 * cloudy, 0.40 + 0.2 * cloudy, 0.70),
        ground=ground_colors(rng),
    )
