# One image for the API (`serve`) and for workers (`train --watch`); it needs neither BuildKit nor a GPU to be built.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
# Where torch comes from. …/whl/cpu is small; …/whl/cu130 and the like bring their own CUDA; empty: where pip is set to look.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt pyproject.toml ./
RUN pip install --constraint constraints.txt hatchling \
 && python -m venv --without-pip /opt/promptgps \
 && pip --python /opt/promptgps/bin/python install --constraint constraints.txt \
        ${TORCH_INDEX_URL:+--no-deps --index-url "$TORCH_INDEX_URL"} torch
# What nobody imports here goes: tests, C++ headers, compilers of protocols.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*project['dependencies'], *project['optional-dependencies']['service'], sep='\n')" > requirements.txt \
 && pip --python /opt/promptgps/bin/python install --constraint constraints.txt --requirement requirements.txt \
 && cd /opt/promptgps/lib/python3*/site-packages \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find . -type d \( -name tests -o -path ./torch/test -o -path '*/include' \) -prune -exec rm -rf {} +

FROM dependencies AS wheel
COPY . .
RUN pip wheel --no-build-isolation --no-deps --wheel-dir dist .

FROM ${PYTHON_IMAGE}
# The two folders are there for volumes, which take their owner over.
RUN useradd --system --uid 10001 --no-create-home promptgps \
 && install --directory --owner promptgps --mode 700 /data /run/secrets
# The source last, by itself: a change of it leaves the gigabyte before it in the cache.
COPY --from=dependencies /opt/promptgps /opt/promptgps
COPY --from=wheel /src/dist /tmp/dist
RUN pip --python /opt/promptgps/bin/python install --no-cache-dir --no-index --no-deps /tmp/dist/*.whl && rm -r /tmp/dist
ENV PATH=/opt/promptgps/bin:$PATH PYTHONUNBUFFERED=1 PROMPTGPS_HOST=0.0.0.0 PROMPTGPS_PORT=8000
USER promptgps
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s \
    CMD python -c "import os, http.client as http; c = http.HTTPConnection('127.0.0.1', os.environ['PROMPTGPS_PORT'], timeout=4); \
        c.request('GET', '/readyz'); exit(c.getresponse().status != 200)"
ENTRYPOINT ["promptgps"]
CMD ["serve"]
