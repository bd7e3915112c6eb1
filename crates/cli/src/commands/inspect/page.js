'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const tip = document.getElementById('tip');
const number = (value) => value.toLocaleString('en-US');

function lines(cell) {
  const shown = [];
  if (cell.last !== '0') {
    shown.push(cell.first === cell.last ? `LSN ${cell.first}` : `LSN ${cell.first}-${cell.last}`);
  }
  shown.push(`offset ${number(cell.start)} to ${number(cell.end)}, ${number(cell.end - cell.start)} bytes`);
  if (cell.frames > 1) shown.push(`${number(cell.frames)} frames`);
  if (cell.frames > 0) {
    shown.push(`durable end ${number(cell.durable_end)}`, `codec ${cell.codec}`);
  }
  return shown;
}

function add(tag, text, className) {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  tip.append(element);
}

function show(event) {
  const rect = event.target.closest('rect[data-cell]');
  if (!rect) {
    tip.style.display = 'none';
    return;
  }
  const segment = data[rect.parentNode.dataset.segment];
  const cell = segment.cells[rect.dataset.cell];
  const names = {
    live: 'records', below: 'records at or below the checkpoint', state: 'state and checkpoint',
    header: 'header', dead: 'dead', zeros: 'reserved, empty', torn: 'torn', damaged: 'damaged',
    missing: 'missing',
  };
  tip.replaceChildren();
  add('b', `${segment.name}: ${names[cell.class]}`);
  for (const line of lines(cell)) add('div', line);
  if (cell.damage) add('div', cell.damage, 'bad');
  tip.style.display = 'block';
  const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 18;
  const fits = below + tip.offsetHeight < window.innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${fits ? below : event.clientY - tip.offsetHeight - 12}px`;
}

document.addEventListener('mousemove', show);
document.addEventListener('mouseleave', () => { tip.style.display = 'none'; });
