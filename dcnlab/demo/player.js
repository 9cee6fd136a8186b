// Plays the recorded learning: sampling grids over the bent photo, and the taps of one output pixel.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const canvases = [...document.querySelectorAll("canvas[data-stage]")];
  const slider = document.getElementById("step"), button = document.getElementById("play");
  const status = document.getElementById("status");
  const photo = new Image(), small = new Image();
  const last = data.steps.length - 1;
  const HOLD = 12; // frames the end stays before it starts again
  let frame = 0, held = 0, playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  slider.max = last;

  function fit(canvas, aspect) {
    const ratio = Math.min(devicePixelRatio || 1, 2), width = canvas.clientWidth;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(width * aspect * ratio);
    canvas.style.height = width * aspect + "px";
    return canvas.getContext("2d");
  }

  function polyline(context, points, scale) {
    context.beginPath();
    points.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"]((x + 0.5) * scale, (y + 0.5) * scale));
    context.stroke();
  }

  function drawMesh(canvas, name) {
    const [height, width] = data.shape, context = fit(canvas, height / width), scale = canvas.width / width;
    context.drawImage(photo, 0, 0, canvas.width, canvas.height);
    const rows = data.mesh[name][frame];
    const columns = rows[0].map((_, c) => rows.map((row) => row[c]));
    for (const [colour, line] of [["#000", 3.2], [data.colours[name], 1.6]]) {
      context.strokeStyle = colour;
      context.lineWidth = line * canvas.width / canvas.clientWidth;
      [...rows, ...columns].forEach((points) => polyline(context, points, scale));
    }
  }

  function drawTaps(canvas) {
    const [height, width] = data.shape, { left, top, side } = data.close_up;
    const context = fit(canvas, height / width), scale = canvas.width / side, tall = side * height / width;
    const unit = canvas.width / canvas.clientWidth;
    context.imageSmoothingEnabled = false;
    context.drawImage(small, left, top, side, tall, 0, 0, canvas.width, canvas.height);
    const at = ([x, y]) => [(x + 0.5 - left) * scale, (y + 0.5 - top) * scale];
    const cross = (point, reach, colour) => {
      const [x, y] = at(point);
      for (const [tint, line] of [["#000", 5], [colour, 2]]) {
        context.strokeStyle = tint;
        context.lineWidth = line * unit;
        context.beginPath();
        context.moveTo(x - reach * unit, y); context.lineTo(x + reach * unit, y);
        context.moveTo(x, y - reach * unit); context.lineTo(x, y + reach * unit);
        context.stroke();
      }
    };
    cross(data.goal, 16, "#fff");
    data.taps[frame].forEach((point, k) => {
      const [x, y] = at(point);
      context.beginPath();
      context.arc(x, y, (3 + 17 * Math.sqrt(data.weights[frame][k])) * unit, 0, 2 * Math.PI);
      context.fillStyle = data.colours.DCNv3 + "b0";
      context.fill();
      context.strokeStyle = "#000";
      context.lineWidth = 1.5 * unit;
      context.stroke();
    });
  }

  function draw() {
    canvases.forEach((c) => (c.dataset.stage === "taps" ? drawTaps(c) : drawMesh(c, c.dataset.stage)));
    slider.value = frame;
    const far = Object.entries(data.distances).map(([name, d]) => `${name} ${d[frame].toFixed(2)} px`).join(", ");
    status.textContent = `Step ${data.steps[frame]} of ${data.steps[last]}, mean distance to the true offsets: ${far}`;
  }

  function show(next) { frame = next; draw(); }
  function setPlaying(on) { playing = on; button.textContent = on ? "Pause" : "Play"; }

  setInterval(() => {
    if (!playing || document.hidden) return;
    if (frame < last) show(frame + 1);
    else if (++held > HOLD) { held = 0; show(0); }
  }, 120);
  button.addEventListener("click", () => { if (!playing && frame === last) show(0); setPlaying(!playing); });
  slider.addEventListener("input", () => { setPlaying(false); show(Number(slider.value)); });
  addEventListener("resize", draw);
  let waiting = 2;
  for (const [image, source] of [[photo, data.photo], [small, data.pixels]]) {
    image.onload = () => { if (--waiting === 0) { setPlaying(playing); draw(); } };
    image.src = source;
  }
})();
