# The service and its embedded model for linux/amd64: docker build -t doctis-ai . && docker run -p 8000:8000 doctis-ai
ARG BASE=python:3.11-slim-bookworm

FROM --platform=linux/amd64 ${BASE} AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential python3-venv \
 && rm -rf /var/lib/apt/lists/*
# Portable: every x86-64 server of the last ten years has these instructions (x86-64-v3); "native" ones would crash
# on another host than the builder's. They are named because a build with SOURCE_DATE_EPOCH set turns them all off.
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DLLAVA_BUILD=OFF"
COPY requirements.txt /
RUN python3 -m venv /venv \
 && /venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check -r /requirements.txt

FROM --platform=linux/amd64 ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home doctis \
 && install --directory --owner doctis --group doctis /models
COPY --from=build /venv /venv
WORKDIR /app
COPY data data
COPY models models
COPY backend backend
# Downloaded models go to /models (mount a disk there to keep them). PORT, where the platform sets it, wins.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DOCTIS_HOST=0.0.0.0 DOCTIS_MODEL_DIR=/models
USER doctis
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/health', timeout=4)"]
# The exec form: SIGTERM reaches the server, which finishes what is under way.
CMD ["python", "-m", "backend"]
