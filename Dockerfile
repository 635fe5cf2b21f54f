# The light core and the server, without torch: an index, or a model with ONNX graphs, over HTTP.
FROM python:3.13-slim
WORKDIR /opt/dipair-index
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt ".[serve]" \
    && useradd --create-home --uid 10001 dipair
USER dipair
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
# another host than loopback needs DIPAIR_API_KEY, or --no-auth
ENTRYPOINT ["dipair-index", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--index-dir", "/data/passages.index"]
