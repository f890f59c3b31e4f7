{{- define "ringcx-extractor.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "ringcx-extractor.fullname" -}}
{{- $name := include "ringcx-extractor.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ringcx-extractor.selector" -}}
app.kubernetes.io/name: {{ include "ringcx-extractor.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ringcx-extractor.labels" -}}
{{ include "ringcx-extractor.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "ringcx-extractor.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* The pod, which both modes share. */ -}}
{{- define "ringcx-extractor.pod" -}}
{{- $postgres := eq .Values.mode "postgres" -}}
metadata:
  labels:
    {{- include "ringcx-extractor.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Changed settings start the daemon anew.
    checksum/config: {{ .Values.config | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "ringcx-extractor.fullname" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 30
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    {{- if not .Values.openshift }}
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    {{- end }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- if $postgres }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "ringcx-extractor.selector" . | nindent 10 }}
  {{- end }}
  containers:
    - name: ringcx-extractor
      image: {{ include "ringcx-extractor.image" . }}
      {{- if ne .Values.image.pullPolicy "IfNotPresent" }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- end }}
      args: ["run"]
      env:
        # The same after every restart, so that limits and work continue where they were.
        - name: RINGCX__DATABASE__INSTANCE
          {{- if $postgres }}
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: RINGCX__DATABASE__URL_FILE
          value: /run/secrets/ringcx-extractor/database_url
          {{- else }}
          value: {{ include "ringcx-extractor.fullname" . }}
          {{- end }}
        {{- with .Values.proxy }}
        {{- if .url }}
        - name: HTTPS_PROXY
          value: {{ .url | quote }}
        - name: NO_PROXY
          value: {{ .noProxy | quote }}
        {{- end }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: http
          containerPort: 8480
      startupProbe:
        httpGet:
          path: /healthz
          port: http
        periodSeconds: 2
        failureThreshold: 150
      livenessProbe:
        httpGet:
          path: /healthz
          port: http
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet:
          path: /readyz
          port: http
        periodSeconds: 10
        timeoutSeconds: 5
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: ["ALL"]
      volumeMounts:
        - name: config
          mountPath: /etc/ringcx-extractor
          readOnly: true
        - name: secrets
          mountPath: /run/secrets/ringcx-extractor
          readOnly: true
        {{- if not $postgres }}
        - name: archive
          mountPath: /var/lib/ringcx-extractor
        {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "ringcx-extractor.fullname" . }}
    - name: secrets
      secret:
        secretName: {{ default (include "ringcx-extractor.fullname" .) .Values.secret }}
        defaultMode: 0440
    {{- if not $postgres }}
    - name: archive
      persistentVolumeClaim:
        claimName: {{ default (include "ringcx-extractor.fullname" .) .Values.persistence.existingClaim }}
    {{- end }}
{{- end }}
