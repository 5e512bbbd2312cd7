// Loaded into every Node of a cell before its program, which waits for that.
'use strict';
const modules = require('node:module');

countProcessors();
findTheWayOut();

// Node counts processors by /proc/cpuinfo, which a cell has not, and finds none; programs divide their work by that number.
// Those that may be used are known to the scheduler.
function countProcessors() {
  const os = require('node:os');
  if (os.cpus().length > 0) return;
  const one = () => ({ model: 'unknown', speed: 0, times: { user: 0, nice: 0, sys: 0, idle: 0, irq: 0 } });
  os.cpus = () => Array.from({ length: os.availableParallelism() }, one);
  modules.syncBuiltinESMExports();
}

// Does what NODE_USE_ENV_PROXY does, but when a program first asks for the network: at the start it would load all that
// `fetch` consists of, and Node would take twice as long to be there.
function findTheWayOut() {
  const dispatchers = [1, 2].map((version) => Symbol.for(`undici.globalDispatcher.${version}`));
  // Somebody has set that variable.
  if (dispatchers.some((key) => key in globalThis)) return;

  // What `fetch`, `WebSocket`, `EventSource` and npm's undici send requests by.
  for (const key of dispatchers) {
    const later = new Proxy({}, {
      get(_, name) {
        const { setGlobalProxyFromEnv } = require('node:http');
        if (globalThis[key] === later) setGlobalProxyFromEnv();
        // It does nothing where the environment names no proxy: then everything goes past one.
        if (globalThis[key] === later) setGlobalProxyFromEnv({ HTTP_PROXY: 'http://localhost', NO_PROXY: '*' });
        const dispatcher = globalThis[key];
        const value = dispatcher[name];
        return typeof value === 'function' ? value.bind(dispatcher) : value;
      },
    });
    Object.defineProperty(globalThis, key, { value: later, writable: true, configurable: true });
  }

  // What `http` and `https` send requests by, as Node makes it: lib/_http_agent.js, getGlobalAgent.
  const found = new Set();
  const find = (name) => {
    const [, plain] = /^(?:node:)?(https?)$/.exec(name) ?? [];
    if (!plain || found.has(plain)) return;
    found.add(plain);
    const client = require(`node:${plain}`);
    client.globalAgent = new client.Agent({ keepAlive: true, scheduling: 'lifo', timeout: 5000, proxyEnv: process.env });
  };
  modules.registerHooks({
    resolve(name, context, next) {
      find(name);
      return next(name, context);
    },
  });
  const { getBuiltinModule } = process;
  process.getBuiltinModule = (name) => {
    find(name);
    return getBuiltinModule(name);
  };
}
