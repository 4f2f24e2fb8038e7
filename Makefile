# Penstock: streams, continuous views and pipes inside PostgreSQL.
#
#   make PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
#   make install | connectors | install-connectors | test | bench | demo | demo-kafka

EXTENSION    = penstock
EXTVERSION   = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" penstock.control)

# Modules in the order of their SQL: earlier ones are used by later ones.
SQL_MODULES  = src/penstock.sql src/catalogue/catalogue.sql src/claim/claim.sql src/stream/stream.sql \
               src/producer/producer.sql src/view/view.sql src/engine/engine.sql src/queue/queue.sql src/pipe/pipe.sql

MODULE_big   = penstock
OBJS         = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c) \
               $(foreach d,util compat catalogue claim stream producer position aggregate vector view engine format queue pipe,$(wildcard src/$(d)/*.c))))
DATA_built   = penstock--$(EXTVERSION).sql
EXTRA_CLEAN  = penstock--*.sql $(OBJS:.o=.d) $(OBJS:.o=.bc)

PG_CPPFLAGS  = -Isrc -DPENSTOCK_VERSION='"$(EXTVERSION)"' -MMD -MP
PG_CFLAGS    = -Wextra -Wno-unused-parameter -Wno-sign-compare $(WERROR)
SHLIB_LINK   = -lzstd -Wl,-Bsymbolic
override with_llvm = no

# These bring what they need themselves: there may be no pg_config yet.
ifneq ($(filter test bench demo demo-kafka,$(MAKECMDGOALS)),)
.PHONY: test bench demo demo-kafka
test:  ; test/run
bench: ; test/bench/run
demo:  ; demo/run
demo-kafka: ; demo/kafka/run
else
PG_CONFIG   ?= pg_config
PGXS        := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# The connectors, each an extension of its own on the client library of its field; those whose library is missing fail.
CONNECTORS   = src/connector/kafka src/connector/rabbitmq src/connector/amqp src/connector/postgres src/format/avro
.PHONY: connectors install-connectors
connectors install-connectors:
	@set -e; for d in $(CONNECTORS); do \
		$(MAKE) -C $$d PG_CONFIG='$(PG_CONFIG)' WERROR='$(WERROR)' $(if $(filter install-%,$@),install,all); done
endif

-include $(OBJS:.o=.d)

penstock--$(EXTVERSION).sql: $(SQL_MODULES) penstock.control
	cat $(SQL_MODULES) > $@
