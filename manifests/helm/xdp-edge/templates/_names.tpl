{{/* The name of the objects: the release's. */}}
{{- define "xdp-edge.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- define "xdp-edge.labels" -}}
app.kubernetes.io/part-of: xdp-edge
{{- end }}
{{- define "xdp-edge.selector" -}}
app.kubernetes.io/name: xdp-edge
{{- end }}
{{/* The port of an ADDR:PORT. */}}
{{- define "xdp-edge.port" -}}
{{ regexFind "[0-9]+$" . }}
{{- end }}
{{/* Of the two bindings to the ServiceAccount. */}}
{{- define "xdp-edge.subject" -}}
- kind: ServiceAccount
  name: {{ include "xdp-edge.name" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
