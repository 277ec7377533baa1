"use strict";
// Comforts that the page does without: a theme switch, a read-out of the charts, one sound at a time.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  addEventListener("beforeprint", () => {
    for (const d of document.querySelectorAll("details")) d.open = true;
  });

  const nearest = (steps, step) => steps.reduce(
    (best, x, i) => (Math.abs(x - step) < Math.abs(steps[best] - step) ? i : best), 0);

  for (const data of document.querySelectorAll("figure.chart > script")) {
    const { box, series } = JSON.parse(data.textContent);
    const figure = data.parentElement;
    const svg = figure.querySelector("svg");
    const outputs = [...figure.querySelectorAll("output")];
    const newest = outputs.map((o) => o.textContent);
    const at = document.createElement("span");
    at.className = "at";
    figure.querySelector("figcaption").append(at);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("class", "cross");
    const leave = () => {
      outputs.forEach((o, i) => { o.textContent = newest[i]; });
      at.textContent = "";
      line.remove();
    };
    svg.addEventListener("pointermove", (event) => {
      const bounds = svg.getBoundingClientRect();
      const x = (event.clientX - bounds.left) / bounds.width * box.w;
      if (x < box.x0 || x > box.x1) { leave(); return; }
      const step = box.low + (x - box.x0) / (box.x1 - box.x0) * (box.high - box.low);
      series.forEach((s, i) => { outputs[i].textContent = s.y[nearest(s.x, step)]; });
      at.textContent = box.name + " " + Math.round(step).toLocaleString("en");
      line.setAttribute("d", `M${x} ${box.y0}V${box.y1}`);
      svg.append(line);
    });
    svg.addEventListener("pointerleave", leave);
  }

  const sounds = [...document.querySelectorAll("audio")];
  for (const sound of sounds) {
    const picture = sound.closest("figure").querySelector(".sound");
    const line = document.createElement("span");
    line.className = "now";
    picture.append(line);
    const draw = () => {
      line.style.left = 100 * sound.currentTime / (sound.duration || 1) + "%";
      if (!sound.paused) requestAnimationFrame(draw);
    };
    sound.addEventListener("play", () => {
      for (const other of sounds) if (other !== sound) other.pause();
      line.style.opacity = 1;
      draw();
    });
    sound.addEventListener("seeked", draw);
    picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect();
      sound.currentTime = (event.clientX - box.left) / box.width * (sound.duration || 0);
      sound.play();
    });
  }
})();
