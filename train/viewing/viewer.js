"use strict";
// An orbit view of lidar scans. No library, no network: the data lies in this page as base64.
(() => {
  const $ = (id) => document.getElementById(id);
  const meta = JSON.parse($("meta").textContent);
  const TYPES = { i2: Int16Array, u2: Uint16Array, u1: Uint8Array, i4: Int32Array };
  const state = { scan: 0, color: "", camera: 0, size: 1, dots: true, hidden: {} };
  const ahead = meta.ahead, turned = (x, y) =>
    [x * Math.cos(ahead) - y * Math.sin(ahead), x * Math.sin(ahead) + y * Math.cos(ahead)];
  const START = { az: Math.PI + ahead, el: 0.62, dist: 42, x: turned(6, 0)[0], y: turned(6, 0)[1], z: -1 };
  const TOP = { az: Math.PI + ahead, el: 1.5533, dist: 95, x: 0, y: 0, z: 0 };
  const eye = { ...START };
  const loaded = new Map();
  let dirty = true;

  // ---- data -----------------------------------------------------------------------------------
  function scanOf(index) {
    if (loaded.has(index)) return loaded.get(index);
    const about = meta.scans[index];
    const text = atob($("scan" + index).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const scan = { about, n: about.n, cameras: [] };
    for (const a of about.arrays) {
      scan[a.name] = new TYPES[a.type](bytes.buffer, a.offset, a.length);
    }
    scan.position = new Float32Array(scan.xyz.length);
    for (let i = 0; i < scan.xyz.length; i++) scan.position[i] = scan.xyz[i] * about.metres;
    if (scan.truth && scan.predicted) {
      scan.error = new Uint8Array(scan.n);
      for (let i = 0; i < scan.n; i++) {
        scan.error[i] = scan.truth[i] === 0 ? 0 : scan.truth[i] === scan.predicted[i] ? 1 : 2;
      }
    }
    about.cameras.forEach((hw, c) => {
      const image = new Image();
      image.onload = () => { drawPhoto(); };
      image.src = "data:image/jpeg;base64," + $("photo" + index + "_" + c).textContent;
      const pixel = scan["pixel" + c], index_ = scan["seen" + c];
      scan.cameras.push({ image, hw, pixel, seen: index_, place: null });
    });
    if (loaded.size > 8) loaded.delete(loaded.keys().next().value);
    loaded.set(index, scan);
    return scan;
  }

  const MODES = [
    { id: "truth", title: "Ground truth", table: "classes", of: (s) => s.truth },
    { id: "prediction", title: "Prediction", table: "classes", of: (s) => s.predicted },
    { id: "error", title: "Error", table: "errors", of: (s) => s.error },
    { id: "confidence", title: "Confidence", of: (s) => s.confidence, ends: () => ["0 %", "100 %"] },
    { id: "signal", title: meta.signal, of: (s) => s.signal,
      ends: (s) => s.about.signal.map((v) => v.toPrecision(3)) },
    { id: "height", title: "Height", of: (s) => s.height,
      ends: (s) => s.about.height.map((v) => v.toFixed(1) + " m") },
  ];
  const modeOf = (id) => MODES.find((m) => m.id === id);
  const modesOf = (scan) => MODES.filter((m) => m.of(scan));
  const hiddenOf = (mode) => (state.hidden[mode.table] ??= new Set());

  function colorsOf(scan, mode) {
    const out = new Uint8Array(scan.n * 4), values = mode.of(scan);
    const table = mode.table ? meta[mode.table].colors : meta.ramp;
    const hidden = mode.table ? hiddenOf(mode) : new Set();
    const shown = table.map((_, c) => (hidden.has(c) ? 0 : 255));
    for (let i = 0; i < scan.n; i++) {
      const c = table[values[i]], o = 4 * i;
      out[o] = c[0]; out[o + 1] = c[1]; out[o + 2] = c[2]; out[o + 3] = shown[values[i]];
    }
    return out;
  }

  // ---- geometry -------------------------------------------------------------------------------
  function matrix(width, height) {
    const ce = Math.cos(eye.el), se = Math.sin(eye.el), ca = Math.cos(eye.az), sa = Math.sin(eye.az);
    const f = [-ce * ca, -ce * sa, -se], r = [-sa, ca, 0], u = [-se * ca, -se * sa, ce];
    const p = [eye.x - f[0] * eye.dist, eye.y - f[1] * eye.dist, eye.z - f[2] * eye.dist];
    const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    const t = 1 / Math.tan(0.42), sx = t * height / width, near = 0.2, far = 600;
    const a = (far + near) / (far - near), b = -2 * far * near / (far - near);
    return { right: r, up: u, m: [
      sx * r[0], t * u[0], a * f[0], f[0], sx * r[1], t * u[1], a * f[1], f[1],
      sx * r[2], t * u[2], a * f[2], f[2], -sx * dot(r, p), -t * dot(u, p), -a * dot(f, p) + b,
      -dot(f, p)] };
  }

  const rings = (() => {
    const out = [];
    for (let d = 10; d <= 50; d += 10) {
      for (let i = 0; i < 96; i++) {
        for (const k of [i, i + 1]) {
          const a = k / 96 * 2 * Math.PI;
          out.push(d * Math.cos(a), d * Math.sin(a), meta.ground);
        }
      }
    }
    const [tip, l, q] = [[1.6, 0], [-0.8, 0.8], [-0.8, -0.8]]
      .map((p) => [...turned(...p), meta.ground]);
    out.push(...tip, ...l, ...l, ...q, ...q, ...tip);
    return new Float32Array(out);
  })();

  // ---- drawing --------------------------------------------------------------------------------
  const canvas = $("view");
  // WebGL without a GPU takes several times as long as the plain painter.
  function hasGpu() {
    const probe = document.createElement("canvas")
      .getContext("webgl", { failIfMajorPerformanceCaveat: true });
    if (!probe) return false;
    const info = probe.getExtension("WEBGL_debug_renderer_info");
    const name = probe.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : probe.RENDERER);
    return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
  }
  const asked = new URLSearchParams(location.hash.slice(1)).get("gl");
  const gl = asked === "on" || (asked !== "off" && hasGpu())
    ? canvas.getContext("webgl", { antialias: true, alpha: false }) : null;
  const painter = gl ? glPainter(gl) : plainPainter(canvas.getContext("2d"));
  document.body.dataset.gl = gl ? "webgl" : "canvas";

  function glPainter(gl) {
    function program(vertex, fragment) {
      const p = gl.createProgram();
      for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
        const s = gl.createShader(kind);
        gl.shaderSource(s, text);
        gl.compileShader(s);
        gl.attachShader(p, s);
      }
      gl.bindAttribLocation(p, 0, "p");
      gl.bindAttribLocation(p, 1, "c");
      gl.linkProgram(p);
      if (!gl.getProgramParameter(p, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(p));
      return p;
    }
    const dots = program(
      `attribute vec3 p; attribute vec4 c; uniform mat4 m; uniform vec3 s; varying vec3 v;
       void main() { gl_Position = m * vec4(p, 1.0); v = c.rgb;
         gl_PointSize = clamp(s.x / gl_Position.w, s.y, s.z);
         if (c.a < 0.5) gl_Position = vec4(2.0, 2.0, 2.0, 1.0); }`,
      `precision mediump float; varying vec3 v;
       void main() { vec2 d = gl_PointCoord - 0.5; if (dot(d, d) > 0.25) discard;
         gl_FragColor = vec4(v, 1.0); }`);
    const lines = program(
      "attribute vec3 p; uniform mat4 m; void main() { gl_Position = m * vec4(p, 1.0); }",
      "precision mediump float; void main() { gl_FragColor = vec4(0.2, 0.215, 0.25, 1.0); }");
    const at = (p, name) => gl.getUniformLocation(p, name);
    const where = { m: at(dots, "m"), s: at(dots, "s"), ring: at(lines, "m") };
    const buffers = [gl.createBuffer(), gl.createBuffer(), gl.createBuffer()];
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[2]);
    gl.bufferData(gl.ARRAY_BUFFER, rings, gl.STATIC_DRAW);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(16 / 255, 17 / 255, 21 / 255, 1);
    let n = 0;
    return {
      points(position) {
        n = position.length / 3;
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers[0]);
        gl.bufferData(gl.ARRAY_BUFFER, position, gl.STATIC_DRAW);
      },
      colors(colors) {
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers[1]);
        gl.bufferData(gl.ARRAY_BUFFER, colors, gl.DYNAMIC_DRAW);
      },
      draw(m, w, h, ratio) {
        gl.viewport(0, 0, w, h);
        gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
        gl.useProgram(lines);
        gl.uniformMatrix4fv(where.ring, false, m);
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers[2]);
        gl.enableVertexAttribArray(0);
        gl.disableVertexAttribArray(1);
        gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
        gl.drawArrays(gl.LINES, 0, rings.length / 3);
        gl.useProgram(dots);
        gl.uniformMatrix4fv(where.m, false, m);
        gl.uniform3f(where.s, 0.075 * h * state.size, 1.8 * ratio * Math.min(1, state.size),
          9 * ratio * state.size);
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers[0]);
        gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
        gl.bindBuffer(gl.ARRAY_BUFFER, buffers[1]);
        gl.enableVertexAttribArray(1);
        gl.vertexAttribPointer(1, 4, gl.UNSIGNED_BYTE, true, 0, 0);
        gl.drawArrays(gl.POINTS, 0, n);
      },
    };
  }

  // Where there is no GPU: squares and a depth buffer, by hand.
  function plainPainter(context) {
    let position = new Float32Array(), colors = new Uint8Array(), picture = null, depth, out;
    return {
      points(values) { position = values; },
      colors(values) { colors = values; },
      draw(m, w, h, ratio) {
        if (!picture || picture.width !== w || picture.height !== h) {
          picture = context.createImageData(w, h);
          out = new Uint32Array(picture.data.buffer);
          depth = new Float32Array(w * h);
        }
        out.fill(0xff151110);
        depth.fill(1e9);
        const [a, b, , c, d, e, , f, g, i, , j, k, l, , n] = m;
        for (let o = 0; o < rings.length; o += 6) line(rings, o);
        function line(p, o) {  // of a ring: short
          for (let t = 0; t < 1; t += 0.04) {
            const x = p[o] + t * (p[o + 3] - p[o]), y = p[o + 1] + t * (p[o + 4] - p[o + 1]);
            dot(x, y, p[o + 2], 0xff403733, 1);
          }
        }
        function dot(x, y, z, color, side) {
          const q = c * x + f * y + j * z + n;
          if (q < 0.2) return;
          const u = ((a * x + d * y + g * z + k) / q + 1) * w * 0.5 | 0;
          const v = (1 - (b * x + e * y + i * z + l) / q) * h * 0.5 | 0;
          if (u < 0 || v < 0 || u > w - side || v > h - side) return;
          for (let r = v; r < v + side; r++) {
            for (let s = r * w + u, end = s + side; s < end; s++) {
              if (depth[s] > q) { depth[s] = q; out[s] = color; }
            }
          }
        }
        const rgb = new Uint32Array(colors.buffer);
        const side = Math.max(1, Math.round(2 * ratio * state.size));
        for (let p = 0, o = 0; o < position.length; p++, o += 3) {
          if (colors[4 * p + 3]) dot(position[o], position[o + 1], position[o + 2], rgb[p], side);
        }
        context.putImageData(picture, 0, 0);
      },
    };
  }

  let current = null, colors = null, view = null;
  function frame() {
    requestAnimationFrame(frame);
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    const w = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const h = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
      dirty = true;
    }
    if (!dirty) return;
    dirty = false;
    view = matrix(w, h);
    painter.draw(view.m, w, h, ratio);
    document.body.dataset.frames = 1 + Number(document.body.dataset.frames || 0);
  }

  // ---- side panel -----------------------------------------------------------------------------
  function element(kind, text, parent, attributes = {}) {
    const e = document.createElement(kind);
    e.textContent = text;
    Object.assign(e, attributes);
    parent.append(e);
    return e;
  }
  const css = (c) => `rgb(${c[0]},${c[1]},${c[2]})`;

  function recolor() {
    const mode = modeOf(state.color);
    colors = colorsOf(current, mode);
    painter.colors(colors);
    drawPhoto();
    dirty = true;
  }

  function showLegend() {
    const mode = modeOf(state.color), box = $("legend"), values = mode.of(current);
    box.replaceChildren();
    $("all").hidden = !mode.table;
    if (!mode.table) {
      const stops = meta.ramp.filter((_, i) => i % 15 === 0).map(css).join(",");
      element("div", "", box, { className: "bar" }).style.background =
        `linear-gradient(90deg, ${stops})`;
      const ends = element("div", "", box, { className: "ends" });
      for (const text of mode.ends(current)) element("span", text, ends);
      return;
    }
    const { names, colors: table } = meta[mode.table], counts = new Array(names.length).fill(0);
    for (let i = 0; i < current.n; i++) counts[values[i]]++;
    names.forEach((name, c) => {
      if (!counts[c]) return;
      const row = element("div", "", box, { className: "row", title: "click: hide or show; double click: this one alone" });
      row.classList.toggle("off", hiddenOf(mode).has(c));
      element("i", "", row).style.background = css(table[c]);
      element("span", name, row);
      const share = 100 * counts[c] / current.n;
      element("em", share < 0.1 ? "<0.1 %" : share.toFixed(1) + " %", row);
      row.onclick = () => {
        const hidden = hiddenOf(mode);
        if (!hidden.delete(c)) hidden.add(c);
        recolor();
        row.classList.toggle("off", hidden.has(c));
      };
      row.ondblclick = () => {
        state.hidden[mode.table] = new Set(names.map((_, k) => k).filter((k) => k !== c));
        recolor();
        showLegend();
      };
    });
  }
  function setAll(isShown) {
    const mode = modeOf(state.color);
    state.hidden[mode.table] = new Set(isShown ? [] : meta[mode.table].names.map((_, c) => c));
    recolor();
    showLegend();
  }
  $("show").onclick = () => setAll(true);
  $("hide").onclick = () => setAll(false);

  function showColors() {
    $("colors").replaceChildren();
    modesOf(current).forEach((mode, i) => {
      const b = element("button", mode.title, $("colors"), { title: "key " + (i + 1) });
      b.classList.toggle("on", mode.id === state.color);
      b.onclick = () => go({ color: mode.id });
    });
  }

  // ---- camera ---------------------------------------------------------------------------------
  const photo = $("picture"), ink = photo.getContext("2d");
  function drawPhoto(marked = -1) {
    if (!current) return;
    const camera = current.cameras[state.camera];
    $("photo").hidden = !camera;
    if (!camera || !camera.image.complete || !colors) return;
    const [h, w] = camera.hw;
    if (photo.width !== w || photo.height !== h) { photo.width = w; photo.height = h; }
    ink.globalAlpha = 1;
    ink.drawImage(camera.image, 0, 0, w, h);
    if (state.dots) {
      ink.fillStyle = "rgba(0,0,0,0.45)";
      ink.fillRect(0, 0, w, h);
      const side = Math.max(2, Math.round(w / 480)), seen = camera.seen, pixel = camera.pixel;
      for (let k = 0; k < seen.length; k++) {  // far ones first
        const o = 4 * seen[k];
        if (!colors[o + 3]) continue;
        ink.fillStyle = `rgb(${colors[o]},${colors[o + 1]},${colors[o + 2]})`;
        ink.fillRect(pixel[2 * k + 1] - (side >> 1), pixel[2 * k] - (side >> 1), side, side);
      }
    }
    if (marked >= 0) {
      camera.place ??= new Map(Array.from(camera.seen, (point, k) => [point, k]));
      const k = camera.place.get(marked);
      if (k !== undefined) {
        ink.strokeStyle = "#fff";
        ink.lineWidth = Math.max(1.5, w / 500);
        ink.beginPath();
        ink.arc(camera.pixel[2 * k + 1], camera.pixel[2 * k], Math.max(7, w / 90), 0, 7);
        ink.stroke();
      }
    }
  }
  function showCameras() {
    $("cameras").replaceChildren();
    if (current.cameras.length > 1) {
      current.cameras.forEach((_, c) => {
        const b = element("button", "Camera " + (c + 1), $("cameras"));
        b.classList.toggle("on", c === state.camera);
        b.onclick = () => go({ camera: c });
      });
    }
    const b = element("button", "Labels", $("cameras"), { title: "labels on or off" });
    b.classList.toggle("on", state.dots);
    b.onclick = () => { state.dots = !state.dots; b.classList.toggle("on", state.dots); drawPhoto(); };
  }

  // ---- what is shown: the address says it -----------------------------------------------------
  function show() {
    current = scanOf(state.scan);
    const modes = modesOf(current);
    if (!modes.some((m) => m.id === state.color)) {
      state.color = (modes.find((m) => m.id === "prediction") || modes[0]).id;
    }
    state.camera = Math.min(state.camera, Math.max(0, current.cameras.length - 1));
    painter.points(current.position);
    const about = current.about;
    $("name").textContent = about.name;
    $("facts").textContent = about.facts;
    $("slider").value = state.scan;
    $("which").textContent = `${state.scan + 1} of ${meta.scans.length}`;
    showColors();
    showCameras();
    recolor();
    showLegend();
    Object.assign(document.body.dataset,
      { scan: state.scan, color: state.color, points: current.n, camera: state.camera });
  }
  function go(changes) {
    Object.assign(state, changes);
    const words = { color: state.color, scan: state.scan };
    if (state.camera) words.camera = state.camera;
    location.replace("#" + new URLSearchParams(words));
  }
  function readAddress() {
    const words = new URLSearchParams(location.hash.slice(1));
    const number = (key, most) =>
      Math.max(0, Math.min(most, Math.trunc(Number(words.get(key))) || 0));
    state.scan = number("scan", meta.scans.length - 1);
    state.camera = number("camera", 63);
    if (words.has("color")) state.color = words.get("color");
    if (words.get("view") === "top") Object.assign(eye, TOP);
    if (words.has("hide")) {
      const names = words.get("hide").split(",");
      state.hidden.classes = new Set(names.map((n) => meta.classes.names.indexOf(n)));
    }
    show();
  }
  addEventListener("hashchange", readAddress);

  // ---- hands ----------------------------------------------------------------------------------
  const fingers = new Map();
  let isPanning = false, spread = 0;
  canvas.oncontextmenu = (e) => e.preventDefault();
  canvas.onpointerdown = (e) => {
    canvas.setPointerCapture(e.pointerId);
    fingers.set(e.pointerId, [e.clientX, e.clientY]);
    isPanning = e.button === 2 || e.button === 1 || e.shiftKey;
    spread = 0;
    canvas.classList.add("held");
    $("tip").hidden = true;
  };
  canvas.onpointerup = canvas.onpointercancel = (e) => {
    fingers.delete(e.pointerId);
    spread = 0;
    if (!fingers.size) canvas.classList.remove("held");
  };
  function pan(dx, dy) {
    const step = 2 * Math.tan(0.42) * eye.dist / canvas.clientHeight;
    const { right, up } = view;
    for (const [k, axis] of ["x", "y", "z"].entries()) {
      eye[axis] += (up[k] * dy - right[k] * dx) * step;
    }
  }
  function zoom(factor) {
    eye.dist = Math.max(0.8, Math.min(320, eye.dist * factor));
    dirty = true;
  }
  canvas.onpointermove = (e) => {
    const before = fingers.get(e.pointerId);
    if (!before) { hover(e); return; }
    const dx = e.clientX - before[0], dy = e.clientY - before[1];
    fingers.set(e.pointerId, [e.clientX, e.clientY]);
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (spread) zoom(spread / now);
      spread = now;
      pan(dx / 2, dy / 2);
    } else if (isPanning) {
      pan(dx, dy);
    } else {
      eye.az -= dx * 0.006;
      eye.el = Math.max(-1.5533, Math.min(1.5533, eye.el + dy * 0.006));
    }
    dirty = true;
  };
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    zoom(Math.exp(Math.max(-1, Math.min(1, e.deltaY * (e.deltaMode ? 30 : 1) * 0.0012))));
  }, { passive: false });
  canvas.onpointerleave = () => { $("tip").hidden = true; };
  canvas.ondblclick = (e) => {
    const i = pick(e);
    if (i >= 0) [eye.x, eye.y, eye.z] = current.position.subarray(3 * i, 3 * i + 3);
    dirty = true;
  };

  // The nearest visible point within some pixels of the pointer.
  function pick(e) {
    if (!view) return -1;
    const box = canvas.getBoundingClientRect(), m = view.m, p = current.position;
    const x = (e.clientX - box.left) / box.width * 2 - 1, y = 1 - (e.clientY - box.top) / box.height * 2;
    const sx = box.width / 2, sy = box.height / 2;
    let best = -1, least = Infinity;
    for (let i = 0, o = 0; i < current.n; i++, o += 3) {
      const q = m[3] * p[o] + m[7] * p[o + 1] + m[11] * p[o + 2] + m[15];
      if (q < 0.2) continue;
      const dx = ((m[0] * p[o] + m[4] * p[o + 1] + m[8] * p[o + 2] + m[12]) / q - x) * sx;
      if (dx > 6 || dx < -6) continue;
      const dy = ((m[1] * p[o] + m[5] * p[o + 1] + m[9] * p[o + 2] + m[13]) / q - y) * sy;
      const d = dx * dx + dy * dy;
      if (d > 36 || !colors[4 * i + 3]) continue;
      const score = d * 0.15 + q;  // near to the eye counts more than near to the pointer
      if (score < least) { least = score; best = i; }
    }
    return best;
  }
  let hovering = null;
  function hover(e) {
    if (!hovering) requestAnimationFrame(() => { tell(hovering); hovering = null; });
    hovering = e;
  }
  function tell(e) {
    const i = pick(e), tip = $("tip");
    tip.hidden = i < 0;
    drawPhoto(i);
    if (i < 0) return;
    const s = current, p = s.position.subarray(3 * i, 3 * i + 3), rows = [];
    const named = (values, c) => [meta.classes.names[c], css(meta.classes.colors[c])];
    if (s.truth) rows.push(["ground truth", ...named(s.truth, s.truth[i])]);
    if (s.predicted) rows.push(["prediction", ...named(s.predicted, s.predicted[i])]);
    if (s.error) rows.push(["", meta.errors.names[s.error[i]], css(meta.errors.colors[s.error[i]])]);
    if (s.confidence) rows.push(["confidence", Math.round(s.confidence[i] / 2.55) + " %"]);
    const [low, high] = s.about.signal;
    rows.push([meta.signal.toLowerCase(), "≈ " + (low + s.signal[i] / 255 * (high - low)).toPrecision(2)]);
    rows.push(["x, y, z", [...p].map((v) => v.toFixed(2)).join(", ") + " m"]);
    rows.push(["range", Math.hypot(...p).toFixed(1) + " m"]);
    const body = document.createElement("table");
    for (const [name, text, color] of rows) {
      const row = body.insertRow();
      row.insertCell().textContent = name;
      const cell = row.insertCell();
      if (color) element("i", "", cell).style.background = color;
      cell.append(text);
    }
    tip.replaceChildren(body);
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.min(e.clientX + 16, innerWidth - box.width - 8) + "px";
    tip.style.top = Math.min(e.clientY + 16, innerHeight - box.height - 8) + "px";
  }

  const look = (place) => { Object.assign(eye, place); dirty = true; };
  $("reset").onclick = () => look(START);
  $("top").onclick = () => look(TOP);
  $("size").oninput = (e) => { state.size = Number(e.target.value); dirty = true; };
  const step = (by) => go({ scan: (state.scan + by + meta.scans.length) % meta.scans.length });
  $("slider").max = meta.scans.length - 1;
  $("slider").oninput = (e) => go({ scan: Number(e.target.value) });
  let playing = 0;
  $("play").onclick = () => {
    if (playing) { clearInterval(playing); playing = 0; } else playing = setInterval(() => step(1), 250);
    $("play").textContent = playing ? "Pause" : "Play";
  };
  $("time").hidden = meta.scans.length < 2;
  addEventListener("keydown", (e) => {
    if (e.target.tagName === "INPUT" || e.ctrlKey || e.metaKey || e.altKey) return;
    const mode = modesOf(current)[Number(e.key) - 1];
    if (mode) go({ color: mode.id });
    else if (e.key === "ArrowRight") step(1);
    else if (e.key === "ArrowLeft") step(-1);
    else if (e.key === "r") look(START);
    else if (e.key === "t") look(TOP);
  });

  readAddress();
  frame();
})();
