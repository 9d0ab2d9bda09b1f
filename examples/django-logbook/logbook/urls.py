from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView


class Favicon(RedirectView):
    """Browsers ask for `/favicon.ico` by that name; the file has a hash in its own."""

    def get_redirect_url(self, *args, **kwargs):
        return static("favicon.ico")


# `/up` is not here: logbook.health answers it.
urlpatterns = [
    path("", include("journal.urls")),
    path("admin/", admin.site.urls),
    path("favicon.ico", Favicon.as_view()),
]
