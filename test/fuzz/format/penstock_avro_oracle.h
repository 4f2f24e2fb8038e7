/*
 * penstock_avro_oracle.h
 *	  Random Avro values by libavro.
 */
#ifndef PENSTOCK_AVRO_ORACLE_H
#define PENSTOCK_AVRO_ORACLE_H

#include "common/pg_prng.h"

typedef struct AvroOracle AvroOracle;

extern AvroOracle *avro_oracle_open(pg_prng_state *random, const char *schema, const char *wider);
extern void avro_oracle_close(AvroOracle *oracle);
extern char *avro_oracle_value(AvroOracle *oracle, const char **bytes, int *length);
extern char *avro_oracle_read(AvroOracle *oracle, const char *bytes, int length);
extern char *avro_oracle_widen(AvroOracle *oracle, const char *bytes, int length);

#endif							/* PENSTOCK_AVRO_ORACLE_H */
