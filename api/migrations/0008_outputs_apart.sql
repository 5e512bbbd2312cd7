-- Long outputs have a database of their own (outputs.sql). Those that are here are dropped with what counted them.
UPDATE executions SET output = NULL WHERE output LIKE 'lz4:%';
DROP TABLE long_outputs;
