// Match strip: one cell for each token and mode, wrapped into lines. Each class
// has a colour and a shape of its own.
const CLASSES = {
  e: { name: 'match, logits bitwise equal', style: 'equal' },
  m: { name: 'match', style: 'match' },
  t: { name: 'tie: gap within 1 ulp', style: 'tie' },
  o: { name: 'noise: gap that the measured noise explains', style: 'noise' },
  n: { name: 'near-tie: gap within the tolerance', style: 'near' },
  h: { name: 'hard flip', style: 'hard' },
  x: { name: 'NaN or Inf', style: 'nonfinite' },
  u: { name: 'not compared: the context had parted', style: 'uncompared' },
};
// In a square of 12: two bars, three dots, a wave, a cross, an exclamation mark.
const SHAPES = {
  e: 'M6 5.2v1.6',
  t: 'M3 4.6h6M3 7.4h6',
  o: 'M3 6h.01M6 6h.01M9 6h.01',
  n: 'M2.6 7q1.7-3 3.4-1t3.4-1',
  h: 'M3.2 3.2l5.6 5.6M8.8 3.2l-5.6 5.6',
  x: 'M6 2.6v4.2M6 9v.6',
  u: 'M4 6h4',
};

function stripSymbol(letter, x, y) {
  const group = svg('g', { class: `cell ${CLASSES[letter].style}`, transform: `translate(${x} ${y})` },
    svg('rect', { width: 12, height: 12, rx: 2 }));
  if (SHAPES[letter]) group.append(svg('path', { d: SHAPES[letter] }));
  return group;
}

function stripLegend(letters) {
  const legend = element('ul', { class: 'legend' });
  for (const letter of letters) {
    legend.append(element('li', {},
      svg('svg', { width: 12, height: 12, 'aria-hidden': 'true' }, stripSymbol(letter, 0, 0)),
      CLASSES[letter].name));
  }
  return legend;
}

const STRIP_PITCH = 14;
const STRIP_LABEL_WIDTH = 52;
const STRIP_RULER_HEIGHT = 16;
const STRIP_LINE_GAP = 8;

// panel: the input's tokens and the index that all its charts point at (inputs.js).
function drawStrip(panel, width) {
  const modes = panel.modes;
  const total = Math.max(...modes.map((mode) => mode.letters.length));
  const fitting = Math.floor((width - STRIP_LABEL_WIDTH) / STRIP_PITCH);
  const perLine = Math.max(8, fitting - (fitting % 8));
  const lineHeight = STRIP_RULER_HEIGHT + modes.length * STRIP_PITCH + STRIP_LINE_GAP;
  const lines = Math.ceil(total / perLine);
  const columns = Math.min(perLine, total);
  const place = (index, mode) => [
    STRIP_LABEL_WIDTH + (index % perLine) * STRIP_PITCH,
    Math.floor(index / perLine) * lineHeight + STRIP_RULER_HEIGHT + mode * STRIP_PITCH,
  ];
  const picture = svg('svg', {
    class: 'strip', width: STRIP_LABEL_WIDTH + columns * STRIP_PITCH, height: lines * lineHeight,
    role: 'group', 'aria-label': `Match strip of ${counted(total, 'token')}; arrow keys move`,
  });
  for (let line = 0; line < lines; ++line) {
    drawStripLabels(picture, panel, line * perLine, Math.min(perLine, total - line * perLine), place);
  }
  modes.forEach((mode, row) => {
    [...mode.letters].forEach((letter, index) => {
      const cell = stripSymbol(letter, ...place(index, row));
      cell.dataset.index = index;
      cell.dataset.mode = mode.mode;
      picture.append(cell);
    });
  });
  const mark = svg('rect', { class: 'cursor', width: 14, height: 14, rx: 3, visibility: 'hidden' });
  picture.append(mark);
  exploreStrip(picture, panel, { place, perLine, lineHeight, total, mark });
  return picture;
}

function drawStripLabels(picture, panel, first, count, place) {
  for (let index = first; index < first + count; index += 8) {
    const [x, y] = place(index, 0);
    picture.append(svg('text', { class: 'tick', x, y: y - 4 }, String(index)));
  }
  panel.modes.forEach((mode, row) => {
    const [x, y] = place(first, row);
    picture.append(svg('text', { class: 'tick', x: x - 6, y: y + 10, 'text-anchor': 'end' }, mode.mode));
  });
}

function exploreStrip(picture, panel, { place, perLine, lineHeight, total, mark }) {
  let at = { index: 0, row: 0 };
  const valid = ({ index, row }) => row >= 0 && row < panel.modes.length && index >= 0 &&
    index < panel.modes[row].letters.length;
  const hit = (event) => {
    const box = picture.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - STRIP_LABEL_WIDTH, event.clientY - box.top];
    const column = Math.floor(x / STRIP_PITCH);
    const line = Math.floor(y / lineHeight);
    const row = Math.floor((y - line * lineHeight - STRIP_RULER_HEIGHT) / STRIP_PITCH);
    const target = { index: line * perLine + column, row };
    return column >= 0 && column < perLine && valid(target) ? target : null;
  };
  const move = ([dx, dy]) => {
    const row = Math.min(panel.modes.length - 1, Math.max(0, at.row + dy));
    const last = Math.min(total, panel.modes[row].letters.length) - 1;
    return { index: Math.min(last, Math.max(0, at.index + dx)), row };
  };
  const show = (target, point) => {
    at = target;
    const [x, y] = place(target.index, target.row);
    const box = picture.getBoundingClientRect();
    panel.point(target.index);
    details.show(...panel.describe(target.index, panel.modes[target.row]),
      ...(point || [box.left + x + 12, box.top + y + 12]));
  };
  explorable(picture, { hit, move, show, clear: () => panel.point(null) });
  panel.followers.push((index) => {
    mark.setAttribute('visibility', index === null ? 'hidden' : 'visible');
    if (index === null) return;
    const [x, y] = place(index, 0);
    mark.setAttribute('x', x - 1);
    mark.setAttribute('y', y - 1);
    mark.setAttribute('height', panel.modes.length * STRIP_PITCH);
  });
}

