{{/*
Rules that must stay true here:
- What follows from rotator's configuration is read from it, never asked for twice.
- What would not work is refused while rendering, in one line that says what to do.
*/}}

{{- define "rotator.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "rotator.selector" -}}
app.kubernetes.io/name: rotator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rotator.labels" -}}
{{ include "rotator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The configuration as a mapping. */}}
{{- define "rotator.config" -}}
{{- if not (trim .Values.config) -}}
{{- fail "config is empty: give rotator's configuration with --set-file config=rotator.yaml" -}}
{{- end -}}
{{- $config := fromYaml .Values.config -}}
{{- if hasKey $config "Error" -}}
{{- fail (printf "config is no YAML mapping (%s): rotator config check says where" $config.Error) -}}
{{- end -}}
{{- toJson $config -}}
{{- end -}}

{{/* Which configuration this is, as `rotator config rbac` marks what it makes. */}}
{{- define "rotator.digest" -}}
sha256:{{ .Values.config | trim | sha256sum }}
{{- end -}}

{{/* sqlite or postgresql */}}
{{- define "rotator.store" -}}
{{- $config := include "rotator.config" . | fromJson -}}
{{- $store := default "" $config.store -}}
{{- if hasPrefix "postgresql" $store -}}
postgresql
{{- else if hasPrefix "sqlite:////var/lib/rotator/" $store -}}
sqlite
{{- else -}}
{{- fail (printf "config: store is %q: with SQLite it must lie below /var/lib/rotator (sqlite:////var/lib/rotator/state.db)" $store) -}}
{{- end -}}
{{- end -}}

{{/* yes where replicas agree by a Lease on one that leads. */}}
{{- define "rotator.standby" -}}
{{- $config := include "rotator.config" . | fromJson -}}
{{- if hasKey (default dict $config.cluster) "lease" -}}yes{{- end -}}
{{- end -}}

{{- define "rotator.replicas" -}}
{{- $store := include "rotator.store" . -}}
{{- $standby := include "rotator.standby" . -}}
{{- if kindIs "invalid" .Values.replicas -}}
{{- ternary 2 1 (eq $standby "yes") -}}
{{- else -}}
{{- $replicas := int .Values.replicas -}}
{{- if and (gt $replicas 1) (eq $store "sqlite") -}}
{{- fail (printf "replicas is %d, but the configuration's store is SQLite, which one process writes: use PostgreSQL and cluster.lease, or one replica" $replicas) -}}
{{- end -}}
{{- if and (gt $replicas 1) (ne $standby "yes") -}}
{{- fail (printf "replicas is %d, but the configuration has no cluster.lease, by which one of them leads: add it (cluster: {lease: {}}), or take one replica" $replicas) -}}
{{- end -}}
{{- $replicas -}}
{{- end -}}
{{- end -}}

{{/* Seconds of a duration as rotator writes it: 90s, 1h30m, 500ms (rounded up). */}}
{{- define "rotator.seconds" -}}
{{- $sum := 0 -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" . -1 -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $sum = add $sum (mul $number (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- div (add $sum 999) 1000 -}}
{{- end -}}

{{- define "rotator.grace" -}}
{{- $config := include "rotator.config" . | fromJson -}}
{{- $within := dig "limits" "stop_within" "25s" $config -}}
{{- add (include "rotator.seconds" $within | int64) 20 -}}
{{- end -}}

{{/* The port of the HTTP service, from http.listen. */}}
{{- define "rotator.port" -}}
{{- $config := include "rotator.config" . | fromJson -}}
{{- $listen := dig "http" "listen" "" $config -}}
{{- if not $listen -}}
{{- fail "config: http.listen is missing: in a cluster probes and Prometheus need it (http: {listen: 0.0.0.0:8443, certificate: ...})" -}}
{{- end -}}
{{- if or (hasPrefix "127." $listen) (hasPrefix "localhost" $listen) (hasPrefix "[::1]" $listen) -}}
{{- fail (printf "config: http.listen is %s, which no probe can reach in a pod: listen at 0.0.0.0 or [::]" $listen) -}}
{{- end -}}
{{- regexFind "[0-9]+$" $listen -}}
{{- end -}}

{{- define "rotator.image" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is empty: name your registry's image of the Dockerfile" -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Whether the configuration logs in at Vault with the token that the chart mounts. */}}
{{- define "rotator.usesVaultToken" -}}
{{- $config := include "rotator.config" . | fromJson -}}
{{- range $name, $issuer := $config.issuers -}}
{{- $auth := dig "vault" "auth" dict $issuer -}}
{{- range $way := list "kubernetes" "jwt" -}}
{{- if hasPrefix "/var/run/secrets/rotator.io/vault-token/" (dig $way "token_file" "" $auth) -}}yes{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Every address in the configuration: what stands under a key whose value is a URL, a list of them or HOST:PORT. */}}
{{- define "rotator.ports" -}}
{{- $config := include "rotator.config" . | fromJson -}}
{{- $ports := list -}}
{{- $text := toJson (omit $config "http" "certificates" "ledger" "platform" "socket" "environment") -}}
{{- range regexFindAll "\"(https?|postgresql\\+psycopg)://[^\"]*\"" $text -1 -}}
{{- $scheme := regexFind "^\"[a-z]+" . | trimPrefix "\"" -}}
{{- $host := regexReplaceAll "^\"[a-z+]+://([^@/\"?]*@)?([^/\"?]*).*$" . "${2}" -}}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" -}}
{{- if not $port -}}
{{- $port = get (dict "http" "80" "https" "443" "postgresql" "5432") $scheme -}}
{{- end -}}
{{- $ports = append $ports (int $port) -}}
{{- end -}}
{{- range $name, $certificate := $config.certificates -}}
{{- range $probe := $certificate.probes -}}
{{- range $way := list "tls" "envoy_admin" -}}
{{- $at := get $probe $way -}}
{{- if kindIs "map" $at -}}{{- $at = coalesce (get $at "address") (get $at "url") -}}{{- end -}}
{{- if $at -}}
{{- $port := regexFind ":[0-9]+/?$" $at | trimPrefix ":" | trimSuffix "/" -}}
{{- if $port -}}{{- $ports = append $ports (int $port) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $domain := $config.trust_domains -}}
{{- $plane := dig "mesh" "control_plane" dict $domain -}}
{{- if and (hasKey $plane "kubernetes") (not (hasKey $plane "url")) -}}
{{- $ports = append $ports (ternary 5682 5681 (hasKey $plane "ca_file")) -}}
{{- end -}}
{{- end -}}
{{- toJson (dict "ports" ($ports | uniq)) -}}
{{- end -}}

{{/* What the pod is only started anew for: the daemon takes everything else from its file as it changes. */}}
{{- define "rotator.fixed" -}}
{{- $config := include "rotator.config" . | fromJson -}}
{{- $fixed := dict "environment" $config.environment "store" $config.store "socket" $config.socket -}}
{{- $fixed = merge $fixed (dict "ledger" (pick (default dict $config.ledger) "path" "origin" "signing_key_file") "http" $config.http) -}}
{{- toJson $fixed | sha256sum -}}
{{- end -}}

{{/* Everything that is looked at before anything is rendered. */}}
{{- define "rotator.checked" -}}
{{- $config := include "rotator.config" . | fromJson -}}
{{- if not (hasPrefix "/var/lib/rotator/" (dig "ledger" "path" "" $config)) -}}
{{- fail "config: ledger.path must lie below /var/lib/rotator: everything else is read-only" -}}
{{- end -}}
{{- if not (hasPrefix "/run/rotator/" (default "" $config.socket)) -}}
{{- fail "config: socket must lie below /run/rotator: everything else is read-only" -}}
{{- end -}}
{{- if and (hasKey $config "cluster") (ne (dig "namespace" "rotator" (default dict $config.cluster)) .Release.Namespace) -}}
{{- fail (printf "config: cluster.namespace is %s, but the release is installed in %s" (dig "namespace" "rotator" (default dict $config.cluster)) .Release.Namespace) -}}
{{- end -}}
{{- if not (hasKey $config "cluster") -}}
{{- fail "config: cluster is missing: add it with rotator's own namespace (cluster: {namespace: ...})" -}}
{{- end -}}
{{- $mounts := list -}}
{{- range .Values.secrets -}}{{- $mounts = append $mounts .mount -}}{{- end -}}
{{- range .Values.configMaps -}}{{- $mounts = append $mounts .mount -}}{{- end -}}
{{- if ne (len $mounts) (len (uniq $mounts)) -}}
{{- fail (printf "secrets and configMaps name a mount twice: %s" (join ", " (sortAlpha $mounts))) -}}
{{- end -}}
{{- range regexFindAll "/var/run/secrets/rotator[.]io/[^/\"?&\\\\]+" (toJson $config) -1 | uniq -}}
{{- $mount := base . -}}
{{- if not (has $mount (append $mounts "vault-token")) -}}
{{- fail (printf "config names files in %s, but neither secrets nor configMaps mounts %s there" . $mount) -}}
{{- end -}}
{{- end -}}
{{- range $name, $certificate := $config.certificates -}}
{{- range $target := $certificate.publish -}}
{{- if hasKey $target "directory" -}}
{{- $directory := get $target "directory" -}}
{{- $path := kindIs "map" $directory | ternary (get (kindIs "map" $directory | ternary $directory dict) "path") $directory -}}
{{- if not (hasPrefix "/var/lib/rotator/" (toString $path)) -}}
{{- fail (printf "config: certificates.%s publishes to the directory %s, which no pod shares with rotator: publish a kubernetes_secret, or below /var/lib/rotator what rotator itself uses" $name $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The documents of rbac.manifest, as a list under "items". */}}
{{- define "rotator.rights" -}}
{{- $items := list -}}
{{- range splitList "\n---" (printf "\n%s" .Values.rbac.manifest) -}}
{{- $document := fromYaml . -}}
{{- if $document.kind -}}{{- $items = append $items $document -}}{{- end -}}
{{- end -}}
{{- if not $items -}}
{{- fail "rbac.manifest is empty: rotator --config rotator.yaml config rbac > rbac.yaml, then --set-file rbac.manifest=rbac.yaml (or rbac.create=false)" -}}
{{- end -}}
{{- range $items -}}
{{- if ne (dig "metadata" "annotations" "rotator.io/configuration" "" .) (include "rotator.digest" $) -}}
{{- fail (printf "rbac.manifest was made from another configuration than config: make it again with rotator config rbac (%s %s)" .kind (dig "metadata" "name" "" .)) -}}
{{- end -}}
{{- if eq .kind "ServiceAccount" -}}
{{- if or (ne .metadata.namespace $.Release.Namespace) (ne .metadata.name $.Values.serviceAccount.name) -}}
{{- fail (printf "rbac.manifest is for the account %s/%s, but the release has %s/%s: give config rbac the same --service-account, and cluster.namespace" .metadata.namespace .metadata.name $.Release.Namespace $.Values.serviceAccount.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson (dict "items" $items) -}}
{{- end -}}
