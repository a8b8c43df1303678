# The pipeline with its locked dependencies, as `make setup` installs them; GPUs need NVIDIA's container toolkit.
#   docker build --tag rca .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD:/work" rca doctor
FROM python:3.13-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'
COPY . /opt/rca
RUN make --directory /opt/rca setup
# Whoever runs it may have no home in the image.
ENV PATH=/opt/rca/.venv/bin:$PATH HOME=/tmp
WORKDIR /work
ENTRYPOINT ["rca"]
