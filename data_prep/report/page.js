"use strict";
// Comforts that the page does without: a theme switch, one clip at a time, a line that runs with it.
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

  const sounds = [...document.querySelectorAll("audio")];
  for (const sound of sounds) {
    const picture = sound.closest("figure").querySelector(".spectrogram");
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

  addEventListener("beforeprint", () => {
    for (const d of document.querySelectorAll("details")) d.open = true;
  });
})();
