// The box that follows pointer and keyboard, and says what a mark stands for.
const details = {
  box: document.getElementById('details'),

  // lines: [name, value] pairs; (x, y): a point of the viewport beside which to stand.
  show(title, lines, x, y) {
    const list = element('dl');
    for (const [name, value] of lines) {
      list.append(element('dt', {}, name), element('dd', {}, value));
    }
    this.box.replaceChildren(element('strong', {}, title), list);
    this.box.hidden = false;
    this.shownAt = window.scrollY;
    const size = this.box.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = x + 14 + size.width > width ? x - 14 - size.width : x + 14;
    const below = y + 16 + size.height > window.innerHeight;
    this.box.style.left = `${Math.max(4, Math.min(left, width - size.width - 4))}px`;
    this.box.style.top = `${Math.max(4, below ? y - 12 - size.height : y + 16)}px`;
  },

  hide() {
    this.box.hidden = true;
  },

  // A scroll event may come late, when what it scrolled to is already pointed at.
  scrolled() {
    if (window.scrollY !== this.shownAt) this.hide();
  },
};

// Makes `node` explorable. hit(event): what the pointer is on, or null. move(step):
// the target after an arrow key, [dx, dy] in cells. show(target, point): marks it and
// shows its details; point is null for the keyboard. clear(): removes the mark.
function explorable(node, { hit, move, show, clear }) {
  const steps = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
    Home: [-Infinity, 0], End: [Infinity, 0],
  };
  const leave = () => {
    clear();
    details.hide();
  };
  const point = (event) => {
    const target = hit(event);
    if (target === null) leave();
    else show(target, [event.clientX, event.clientY]);
  };
  node.setAttribute('tabindex', '0');
  node.addEventListener('pointermove', point);
  node.addEventListener('pointerdown', point);
  node.addEventListener('pointerleave', leave);
  node.addEventListener('blur', leave);
  node.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') leave();
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const target = move(step);
    if (target !== null) show(target, null);
  });
}

