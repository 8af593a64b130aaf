#!/bin/bash
# Run by the image of Postgres at the first start of an empty volume (docker-compose.yml). Makes a
# user and databases for the control plane, and others for Temporal: neither reaches the other's.
# The superuser is left without a password, so it can log in through the container's socket only.
set -euo pipefail

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv registry_db REGISTRY_DB
\getenv registry_user REGISTRY_USER
\getenv registry_password REGISTRY_PASSWORD
\getenv temporal_user TEMPORAL_USER
\getenv temporal_password TEMPORAL_PASSWORD
\getenv superuser POSTGRES_USER

CREATE ROLE :"registry_user" LOGIN PASSWORD :'registry_password';
CREATE DATABASE :"registry_db" OWNER :"registry_user";
REVOKE ALL ON DATABASE :"registry_db" FROM PUBLIC;

CREATE ROLE :"temporal_user" LOGIN PASSWORD :'temporal_password';
CREATE DATABASE temporal OWNER :"temporal_user";
REVOKE ALL ON DATABASE temporal FROM PUBLIC;
CREATE DATABASE temporal_visibility OWNER :"temporal_user";
REVOKE ALL ON DATABASE temporal_visibility FROM PUBLIC;

REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
ALTER ROLE :"superuser" PASSWORD NULL;
SQL
