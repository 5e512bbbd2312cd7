// What Rust calls (`prelude.rs`).

const { stackOf, withHint } = require('errors');
const { errorHead, constructorName, inspect, errorField } = require('inspect');
const timers = require('timers');
const process = require('process');
const modules = require('modules');
const { render } = require('display');
const console = require('console');
require('globals');

// Kept, because a program may put something else in its place.
const { stringify } = JSON;

const MAX_MESSAGE = 16 * 1024;
const NATIVE = new Set([
  'Error',
  'EvalError',
  'RangeError',
  'ReferenceError',
  'SyntaxError',
  'TypeError',
  'URIError',
  'InternalError',
  'AggregateError',
]);
const errorClass = host.classId(new Error());
const isError = (value) => host.classId(value) === errorClass || value instanceof DOMException;

const cut = (text) => (text.length > MAX_MESSAGE ? `${text.slice(0, MAX_MESSAGE)}… (${text.length} characters)` : text);

function emitted(name, message, stack) {
  const head = message === '' ? name : `${name}: ${message}`;
  const traceback = stack === '' ? head : `${head}\n${stack}`;
  return stringify({ name, message, traceback: cut(traceback) }).toWellFormed();
}

// A class that sets no name is told by the name of the class.
function nameOf(error) {
  const name = errorField(error, 'name');
  if (typeof name !== 'string' || name === '') return 'Error';
  return NATIVE.has(name) ? (constructorName(error) ?? name) : name;
}

function messageOf(error) {
  const message = errorField(error, 'message');
  if (message === undefined) return '';
  return typeof message === 'string' ? withHint(message) : inspect(message);
}

function describe(thrown) {
  if (!isError(thrown)) return emitted('Error', cut(`Uncaught ${inspect(thrown)}`), '');
  return emitted(nameOf(thrown), cut(messageOf(thrown)), stackOf(thrown) + causes(thrown, 0));
}

// Causes below, as far as a reader wants to go.
function causes(error, depth) {
  const cause = Object.getOwnPropertyDescriptor(error, 'cause')?.value;
  if (cause === undefined || depth === 5) return '';
  const shown = isError(cause)
    ? `${errorHead(cause, constructorName(cause))}\n${stackOf(cause)}${causes(cause, depth + 1)}`
    : inspect(cause);
  return `\nCaused by: ${shown}`;
}

module.exports = {
  start(env) {
    process.start(env);
    modules.performance.timeOrigin = Date.now();
  },
  begin: process.begin,
  end() {
    timers.reset();
    console.reset();
    return process.end();
  },
  runTicks: timers.runTicks,
  step: timers.step,
  render,
  describe,
  describeStop: (name, message, place) => emitted(name, message, place === undefined ? '' : stackOf(place)),
  neverSettles: () => new Error('the program awaits a promise that nothing can settle any more'),
  resolve: modules.resolve,
  load: modules.load,
};
