// `assert`, strict and loose.

const { inspect } = require('inspect');
const { deepEqual } = require('equal');

class AssertionError extends Error {
  constructor({ message, actual, expected, operator }) {
    super(message);
    this.name = 'AssertionError';
    this.code = 'ERR_ASSERTION';
    this.generatedMessage = false;
    Object.assign(this, { actual, expected, operator });
  }
}

function fail(message, actual, expected, operator, text) {
  if (message instanceof Error) throw message;
  throw new AssertionError({ message: message ?? text, actual, expected, operator });
}

const compared = (title, actual, expected) => `${title}\n\n${inspect(actual)} !== ${inspect(expected)}\n`;

function comparison(operator, holds, title) {
  return (actual, expected, message) => {
    if (!holds(actual, expected)) fail(message, actual, expected, operator, compared(title, actual, expected));
  };
}

function ok(value, message) {
  if (!value) fail(message, value, true, '==', `The expression evaluated to a falsy value: ${inspect(value)}`);
}

// What an expected error may be: a class, a pattern, an object of properties, a function that checks.
function matches(error, expected) {
  if (expected === undefined) return true;
  if (expected instanceof RegExp) return expected.test(String(error));
  if (typeof expected === 'function') {
    if (expected.prototype !== undefined && error instanceof expected) return true;
    return !(expected === Error || Error.isPrototypeOf(expected)) && expected.call({}, error) === true;
  }
  return Object.keys(expected).every((key) =>
    expected[key] instanceof RegExp ? expected[key].test(error[key]) : deepEqual(error[key], expected[key], true),
  );
}

function checkThrown(error, expected, message, operator) {
  if (typeof expected === 'string') return;
  if (matches(error, expected)) return;
  if (typeof expected === 'function' || expected instanceof RegExp) throw error;
  fail(message, error, expected, operator, compared('Expected values to be strictly equal:', error, expected));
}

function throws(action, expected, message) {
  let thrown;
  try {
    action();
  } catch (error) {
    thrown = { error };
  }
  if (thrown) return checkThrown(thrown.error, expected, message, 'throws');
  fail(typeof expected === 'string' ? expected : message, undefined, expected, 'throws', 'Missing expected exception.');
}

async function rejects(action, expected, message) {
  let thrown;
  try {
    await (typeof action === 'function' ? action() : action);
  } catch (error) {
    thrown = { error };
  }
  if (thrown) return checkThrown(thrown.error, expected, message, 'rejects');
  fail(
    typeof expected === 'string' ? expected : message,
    undefined,
    expected,
    'rejects',
    'Missing expected rejection.',
  );
}

const assert = (value, message) => ok(value, message);

const strictEqual = comparison('strictEqual', Object.is, 'Expected values to be strictly equal:');
const notStrictEqual = comparison(
  'notStrictEqual',
  (a, b) => !Object.is(a, b),
  'Expected "actual" to be strictly unequal to:',
);
const deepStrictEqual = comparison(
  'deepStrictEqual',
  (a, b) => deepEqual(a, b, true),
  'Expected values to be strictly deep-equal:',
);
const notDeepStrictEqual = comparison(
  'notDeepStrictEqual',
  (a, b) => !deepEqual(a, b, true),
  'Expected "actual" not to be strictly deep-equal to:',
);

const common = {
  AssertionError,
  ok,
  throws,
  rejects,
  strictEqual,
  notStrictEqual,
  deepStrictEqual,
  notDeepStrictEqual,
  fail: (message = 'Failed') => fail(message, undefined, undefined, 'fail'),
  doesNotThrow: (action) => void action(),
  doesNotReject: async (action) => void (await (typeof action === 'function' ? action() : action)),
  match: comparison('match', (text, pattern) => pattern.test(text), 'The input did not match the regular expression.'),
  doesNotMatch: comparison(
    'doesNotMatch',
    (text, pattern) => !pattern.test(text),
    'The input was expected to not match the regular expression.',
  ),
  ifError: (value) => {
    if (value !== null && value !== undefined) throw value;
  },
};

const loose = {
  equal: comparison('==', (a, b) => a == b || (a !== a && b !== b), 'Expected values to be loosely equal:'),
  notEqual: comparison('!=', (a, b) => a != b, 'Expected "actual" to be loosely unequal to:'),
  deepEqual: comparison('deepEqual', (a, b) => deepEqual(a, b, false), 'Expected values to be loosely deep-equal:'),
  notDeepEqual: comparison(
    'notDeepEqual',
    (a, b) => !deepEqual(a, b, false),
    'Expected "actual" not to be loosely deep-equal to:',
  ),
};

const strict = Object.assign((value, message) => ok(value, message), common, {
  equal: strictEqual,
  notEqual: notStrictEqual,
  deepEqual: deepStrictEqual,
  notDeepEqual: notDeepStrictEqual,
});
strict.strict = strict;

module.exports = Object.assign(assert, common, loose, { strict });
