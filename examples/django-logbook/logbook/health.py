from django.http import HttpResponse


class HealthMiddleware:
    """Answers `/up` before anything else looks at the request.

    A load balancer asks by address, not by host name, over plain HTTP, and wants to know whether
    this process is alive; the database, ALLOWED_HOSTS and the redirect to HTTPS have no say in that.
    """

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if request.path == "/up":
            return HttpResponse("up\n", content_type="text/plain", headers={"Cache-Control": "no-store"})
        return self.get_response(request)
