// Loaded into every Node. It counts processors by /proc/cpuinfo, which a cell has not, and finds none; programs divide their
// work by that number. Those that may be used are known to the scheduler.
'use strict';
const os = require('node:os');
if (os.cpus().length === 0) {
  const one = () => ({ model: 'unknown', speed: 0, times: { user: 0, nice: 0, sys: 0, idle: 0, irq: 0 } });
  os.cpus = () => Array.from({ length: os.availableParallelism() }, one);
  require('node:module').syncBuiltinESMExports();
}
