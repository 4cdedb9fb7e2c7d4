{{- define "batch.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "batch.selector" . }}
{{- end }}

{{- define "batch.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Chart.Name }}
{{- end }}

{{- define "batch.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}
