// Comforts that the page does without: one clip at a time, a line that runs with it.
(() => {
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
})();
