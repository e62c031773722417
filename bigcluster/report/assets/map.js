// The map: dots on a canvas, the image of the one that is pointed at.
"use strict";

(async () => {
  const { root, clusterName, element, picture, piece, visible } = window.bigcluster;
  const GRID = 10000;
  const NEAR_PIXELS = 14;
  const map = document.getElementById("map");
  const canvas = document.getElementById("canvas");
  const tip = document.getElementById("tip");
  const only = document.getElementById("only");
  const context = canvas.getContext("2d");
  const points = await piece("map"); // rows of x, y, cluster, place in it, path
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let view = { scale: 1, x: 0, y: 0 }; // x, y: pixels by which the middle is moved
  let under = -1;
  let frame = 0;

  // -- colours: each as light or dark as it takes to be seen on this page

  const ALPHA = 0.85; // of a dot: where many lie it is darker
  const CONTRAST = 3; // WCAG 2.1, 1.4.11: of graphics against what is beside them
  const colors = new Map();

  function rgbOf(hue, saturation, lightness) {
    const reach = saturation * Math.min(lightness, 1 - lightness);
    return [0, 8, 4].map((n) => {
      const k = (n + hue / 30) % 12;
      return 255 * (lightness - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1)));
    });
  }

  function luminance(rgb) {
    const [r, g, b] = rgb.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function contrast(one, other) {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }

  /** Neighbouring numbers get distant hues: steps of the golden angle. */
  function color(label) {
    const key = `${label} ${dark.matches}`;
    if (!colors.has(key)) {
      const paper = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
      let lightness = dark.matches ? 0.66 : 0.42;
      let rgb, seen;
      do {
        rgb = rgbOf((label * 137.508) % 360, 0.62, lightness);
        seen = rgb.map((value, i) => ALPHA * value + (1 - ALPHA) * paper[i]);
        lightness += dark.matches ? 0.01 : -0.01;
      } while (contrast(seen, paper) < CONTRAST && lightness > 0 && lightness < 1);
      colors.set(key, `rgb(${rgb.map(Math.round).join(" ")})`);
    }
    return colors.get(key);
  }
  window.bigcluster.mapColor = color;

  function place(x, y) {
    const side = Math.min(canvas.clientWidth, canvas.clientHeight) - 24;
    const unit = (side / GRID) * view.scale;
    return [
      canvas.clientWidth / 2 + view.x + (x - GRID / 2) * unit,
      canvas.clientHeight / 2 + view.y - (y - GRID / 2) * unit,
    ];
  }

  function draw() {
    frame = 0;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const wanted = only.value === "" ? null : Number(only.value);
    const radius = Math.min(6, (points.length > 3000 ? 1.7 : 2.6) * Math.sqrt(view.scale));
    const dot = (point, size) => {
      const [x, y] = place(point[0], point[1]);
      context.beginPath();
      context.arc(x, y, size, 0, 2 * Math.PI);
      context.fill();
    };
    for (const chosen of wanted === null ? [true] : [false, true]) {
      for (const point of points) {
        if (wanted !== null && (point[2] === wanted) !== chosen) continue;
        context.globalAlpha = chosen ? ALPHA : 0.15;
        context.fillStyle = chosen ? color(point[2]) : "#888";
        dot(point, wanted !== null && chosen ? radius * 1.4 : radius);
      }
    }
    if (under >= 0) {
      context.globalAlpha = 1;
      context.fillStyle = color(points[under][2]);
      dot(points[under], radius + 4);
    }
  }

  const redraw = () => {
    frame ||= requestAnimationFrame(draw);
  };

  /** Zoom by a factor; the spot (x, y) of the canvas stays where it is. */
  function zoom(by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const scale = Math.min(Math.max(view.scale * by, 1), 200);
    const change = scale / view.scale;
    const [fromX, fromY] = [x - canvas.clientWidth / 2, y - canvas.clientHeight / 2];
    view = { scale, x: fromX + (view.x - fromX) * change, y: fromY + (view.y - fromY) * change };
    map.dataset.scale = scale.toFixed(3);
    redraw();
  }

  function nearest(x, y) {
    let best = -1;
    let least = NEAR_PIXELS ** 2;
    const wanted = only.value === "" ? null : Number(only.value);
    points.forEach((point, number) => {
      if (wanted !== null && point[2] !== wanted) return;
      const [px, py] = place(point[0], point[1]);
      const far = (px - x) ** 2 + (py - y) ** 2;
      if (far < least) [best, least] = [number, far];
    });
    return best;
  }

  /** The picture of a point: of its cluster's list, or of the map's own sample. */
  function thumbnail(number) {
    const [, , label, member, path] = points[number];
    const size = Number(map.dataset.page);
    const [of, at] = map.dataset.thumbs === "members" ? [clusterName(label), member] : ["map", number];
    const rows = of === "map" ? points.length : Number(map.dataset.sizes.split(" ")[label]);
    const page = Math.floor(at / size);
    return picture(`${root}sprites/${of}/${page}.webp`, at % size, Math.min(size, rows - page * size), visible(path));
  }

  function point(x, y) {
    const found = nearest(x, y);
    if (found === under) return;
    under = found;
    tip.hidden = found < 0;
    canvas.style.cursor = found < 0 ? "grab" : "pointer";
    if (found >= 0) {
      const [px, py, label, , path] = points[found];
      tip.replaceChildren(thumbnail(found), element("bdi", {}, visible(path)), element("div", {}, `cluster ${clusterName(label)}`));
      const [left, top] = place(px, py);
      tip.style.left = `${left > canvas.clientWidth / 2 ? left - tip.offsetWidth - 14 : left + 14}px`;
      tip.style.top = `${Math.max(4, Math.min(top - tip.offsetHeight / 2, canvas.clientHeight - tip.offsetHeight - 4))}px`;
    }
    redraw();
  }

  function open(number) {
    const [, , label, member] = points[number];
    location.href = `${root}clusters/${clusterName(label)}.html#member-${member}`;
  }

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch") {
      drag = { touch: true, moved: false }; // a tap, unless the page scrolls: then it is cancelled
      return;
    }
    drag = { x: event.offsetX, y: event.offsetY, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag?.touch) return;
    if (drag && (drag.moved || Math.hypot(event.offsetX - drag.x, event.offsetY - drag.y) > 4)) {
      view = { ...view, x: view.x + event.offsetX - drag.x, y: view.y + event.offsetY - drag.y };
      drag = { x: event.offsetX, y: event.offsetY, moved: true };
      redraw();
    } else if (!drag) {
      point(event.offsetX, event.offsetY);
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const clicked = drag && !drag.moved;
    drag = null;
    if (!clicked) return;
    const before = under;
    point(event.offsetX, event.offsetY);
    // The first tap of a finger shows, the second opens; a mouse has shown already.
    if (under >= 0 && (under === before || event.pointerType === "mouse")) open(under);
  });
  canvas.addEventListener("pointercancel", () => {
    drag = null;
  });
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch") point(-1e6, -1e6); // what a tap showed stays
  });
  canvas.addEventListener("wheel", (event) => {
    if (event.deltaY > 0 && view.scale === 1) return; // nothing to zoom away from: the page scrolls
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });

  // Two fingers move and zoom; one scrolls the page, or a map as high as the screen could not be passed.
  let fingers = null;
  const between = ([one, other]) => {
    const { left, top } = canvas.getBoundingClientRect();
    return {
      x: (one.clientX + other.clientX) / 2 - left,
      y: (one.clientY + other.clientY) / 2 - top,
      apart: Math.max(1, Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY)),
    };
  };
  canvas.addEventListener("touchstart", (event) => {
    fingers = event.touches.length === 2 ? between(event.touches) : null;
    if (!fingers) return;
    event.preventDefault();
    drag = null;
  }, { passive: false });
  canvas.addEventListener("touchmove", (event) => {
    if (!fingers || event.touches.length !== 2) return;
    event.preventDefault();
    const now = between(event.touches);
    view = { ...view, x: view.x + now.x - fingers.x, y: view.y + now.y - fingers.y };
    zoom(now.apart / fingers.apart, now.x, now.y);
    fingers = now;
  }, { passive: false });
  for (const end of ["touchend", "touchcancel"]) canvas.addEventListener(end, () => { fingers = null; });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (moves[event.key]) {
      view = { ...view, x: view.x + moves[event.key][0], y: view.y + moves[event.key][1] };
      redraw();
      event.preventDefault();
    }
    if (event.key === "+") zoom(1.5);
    if (event.key === "-") zoom(1 / 1.5);
  });
  document.getElementById("closer").onclick = () => zoom(1.6);
  document.getElementById("away").onclick = () => zoom(1 / 1.6);
  document.getElementById("reset").onclick = () => {
    view = { scale: 1, x: 0, y: 0 };
    zoom(1);
  };
  only.addEventListener("input", redraw);
  dark.addEventListener("change", redraw);
  new ResizeObserver(redraw).observe(canvas);
  map.dataset.ready = "yes";
  draw();
})();
